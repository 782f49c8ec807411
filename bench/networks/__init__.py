"""Images in, features out: ResNets of any width and vision transformers."""
