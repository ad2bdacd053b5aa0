"""The HTTP interface under `/api/v1`, with Django REST Framework. Specification: docs/reference/rest.md."""
