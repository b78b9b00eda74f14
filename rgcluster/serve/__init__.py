"""The translation endpoint on Ray Serve: HTTP in front, batching translators behind, a page to try it."""
