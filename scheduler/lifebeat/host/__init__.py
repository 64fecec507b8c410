"""The host behind ``lifebeat run``."""
