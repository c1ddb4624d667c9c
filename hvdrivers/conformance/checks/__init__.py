"""The checks: a file for each topic of ``contract/``, and some for rules across topics."""
