"""Networks, model files, and models as functions of images."""
