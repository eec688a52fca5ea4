"""Multi-hot Criteo's closed tables."""

# Distinct categories of each column over all 24 days. Source: mlcommons/training @ aa344c7,
# recommendation_v2/torchrec_dlrm, README (num_embeddings_per_feature), which caps five of them.
TABLE_SIZES = (
    40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282,
    10, 2_209, 11_938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108,
    36,
)  # fmt: skip
ROW_BYTES = 2 * 4 * 128  # weight and Adagrad's sum: fp32, width 128
