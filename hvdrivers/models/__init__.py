"""What goes into operations and comes out of them: immutable pydantic models, one file per topic.

Sizes carry their unit in their name (``memory_mib``, ``disk_gib``, ``size_bytes``), times are
aware datetimes, enums have stable values. Unknown fields are refused, secrets are ``SecretStr``.
"""
