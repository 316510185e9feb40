"""The processors that an int8 student may be made for: which eight bits each multiplies fast and without overflow.

Source: onnxruntime's page on quantisation, and the notes of its changes 12088 (x86) and 9772 (ARM). On x86 without
VNNI the fast product of uint8 and int8 adds pairs in 16 bits, which saturate without a word where weights have all 8
bits; 7 bits cannot. VNNI and ARM add in 32 bits. ARM's kernels are made for int8 on both sides; x86 wants its
activations uint8.
"""

from __future__ import annotations

from dataclasses import dataclass

HERE = "here"


@dataclass(frozen=True)
class Target:
    """A processor, and what is written for it."""

    name: str
    weight_bits: int  # 7 or 8, signed, per channel
    signed_activations: bool
    meaning: str

    @property
    def is_here(self) -> bool:
        """Whether the file is for this machine, on which its speed then decides."""
        return self.name == HERE

    @property
    def method(self) -> str:
        """For the file's metadata."""
        activations = "int8" if self.signed_activations else "uint8"
        return (
            f"static QDQ; int8 weights per channel, {self.weight_bits} bits; {activations} activations, least to "
            "greatest value"
        )


TARGETS = {
    target.name: target
    for target in (
        Target(HERE, 7, signed_activations=False, meaning="this machine, and any other"),
        Target("arm64", 8, signed_activations=True, meaning="64-bit ARM, as a Raspberry Pi 4 or 5 or an Apple M"),
        Target("avx2", 7, signed_activations=False, meaning="x86 with AVX2 and without VNNI"),
        Target("avx512_vnni", 8, signed_activations=False, meaning="x86 with AVX-512 VNNI"),
    )
}
ELSEWHERE = tuple(name for name in TARGETS if name != HERE)
