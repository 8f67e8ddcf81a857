"""Measurements of this project; every row in results/ records its hardware, commit and command."""
