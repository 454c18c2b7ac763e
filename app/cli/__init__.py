"""The command line: one file a command. The only part that prints or exits.

Imports nothing: ``app pre`` and ``app post`` come through here, and never import click.
"""
