"""Ways of running the endpoint."""
