from tests.end_to_end.conftest import deploy, dynoxide_url

__all__ = ["deploy", "dynoxide_url"]
