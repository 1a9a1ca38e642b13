"""The graph's assets, one thin file each: read the inputs, have the artifact made, record what a person wants to see."""
