"""The real servers that the tests run against, started for the tests and ended with them."""
