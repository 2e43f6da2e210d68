"""The real parts that tests run against: how each is started, found, and never left behind."""
