"""The model of scaling beside measurements: of this machine, and as published. `launch/model` is the model."""
