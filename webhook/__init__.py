"""A Pod in, a patch out: the mutating admission webhook."""
