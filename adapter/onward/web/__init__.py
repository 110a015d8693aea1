"""The HTTP door: JSON over Starlette. On Lambda through Mangum (see entry/http.py), on a laptop by the dev server."""
