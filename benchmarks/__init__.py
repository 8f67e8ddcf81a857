"""Measurements of this project; every row in results/ says on what hardware, commit and command it was made."""
