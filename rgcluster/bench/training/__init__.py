"""`rgcluster bench train`: a step compared with its plain formulation, and the three stages."""
