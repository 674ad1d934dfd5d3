"""Metrics with their units, for tables."""


def _with_unit(name: str, value: float) -> tuple[str, str]:
    if name.startswith("psnr"):
        return f"{value:.2f}", "dB"
    if name.startswith("usage"):
        return f"{100 * value:.1f}", "% of codewords"
    if name.startswith("bits_per_pixel"):
        return f"{value:.4g}", "bits"
    if name.startswith("bits"):
        return f"{value:,.0f}", "bits"
    if float(value).is_integer():
        return f"{value:,.0f}", ""
    return f"{value:.4g}", ""
