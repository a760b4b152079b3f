"""How fast the service is, beside its upstream asked directly and a proxy that does nothing."""
