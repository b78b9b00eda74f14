"""The HTTP side of the endpoint: routes, schemas, uploads, the page."""
