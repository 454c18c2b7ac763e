"""Lets PyInstaller import plistlib, which it needs on other systems; the interpreter has no expat."""

ParserCreate = None
model = errors = None
