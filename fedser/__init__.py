"""Federated speech emotion recognition under privacy mechanisms and attacks."""
