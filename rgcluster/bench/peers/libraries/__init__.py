"""Vector libraries, each as the comparison with this store uses it."""
