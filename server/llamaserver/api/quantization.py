"""The name of a model's quantization, from the number in its metadata. A test compares the table with the library."""

from collections.abc import Mapping

_NAMES = {
    0: "F32",
    1: "F16",
    **dict(enumerate(("Q4_0", "Q4_1"), 2)),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"), 7)),
    **dict(enumerate(("Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS"), 16)),
    **dict(enumerate(("IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 24)),
    **dict(enumerate(("TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_0"), 36)),
}


def quantization(metadata: Mapping[str, str]) -> str:
    """A name such as Q4_K_M, or "" if the metadata has none."""
    number = metadata.get("general.file_type", "")
    return _NAMES.get(int(number), "") if number.isdigit() else ""
