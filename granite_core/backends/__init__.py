"""Where bytes live: the contract and the backends that keep it, one module each."""
