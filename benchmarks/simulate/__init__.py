"""The model of scaling against measurements: of this machine, and as published. `launch/model` is the model."""
