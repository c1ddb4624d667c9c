"""Mutants: what becomes of images in the formats of other hypervisors."""

from __future__ import annotations

from dataclasses import replace

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.image_store import Images
from hvdrivers.fake.records import ImageRecord
from hvdrivers.fake.steps import Task
from hvdrivers.models.image import FileImage, HttpImage, ImageFormat

_OWN = (ImageFormat.RAW, ImageFormat.QCOW2)


class _Changed(Images):
    def converted(self, record: ImageRecord) -> ImageRecord:
        return record

    def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
        record = super().upload(task, ref)
        if ref.format not in _OWN:
            record = self.converted(record)
            self.host.default_pool.images[record.key] = record
        return record


@mutant("IMG-022")
class TheFileIsTheDisk(FakeDriver):
    """The file is taken as it is, headers and all: a disk of another size."""

    class images_type(_Changed):
        def converted(self, record: ImageRecord) -> ImageRecord:
            return replace(record, virtual_size_bytes=record.size_bytes)


@mutant("IMG-022")
class ConvertsToNothing(FakeDriver):
    """The disk has the right size and is empty."""

    class images_type(_Changed):
        def converted(self, record: ImageRecord) -> ImageRecord:
            return replace(record, content=())


@mutant("IMG-023")
class LooksAtTheSizeOfTheFile(FakeDriver):
    """Of a format that it converts it compares the file's size with the disk asked for."""

    class images_type(Images):
        def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
            record = super().upload(task, ref)
            if ref.format in _OWN:
                return record
            return replace(record, virtual_size_bytes=record.size_bytes)
