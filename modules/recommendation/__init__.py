"""Click prediction: what DLRM and DLRM-DCNv2 share."""

NUM_DENSE = 13  # integers in a row of Criteo's logs
