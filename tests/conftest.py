"""Puts this folder on the path: the tests below share groundtruth.py."""
