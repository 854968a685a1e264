"""Colour spaces that a file names without a profile, as ICC profiles (ICC.1:2001-04), so that there is one conversion for all.

A PNG names them in cICP, or as its primaries and gamma (PNG specification, third edition, 11.3.2); an AVIF or a HEIC in its nclx
colour box (ISO/IEC 14496-12, 12.1.5). The numbers are those of ITU-T H.273.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence

_Point = tuple[float, float]
Primaries = tuple[_Point, _Point, _Point, _Point]
"""Chromaticities (x, y) of white, red, green and blue."""

_D65 = (0.3127, 0.3290)
SRGB: Primaries = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020, BT.2100
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # DCI-P3
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
_AS_SRGB = {1, 2, 6, 13, 14, 15}  # the curves of television, which viewers show like sRGB's; 2 is "unspecified"
_WHITE_NITS = 203.0  # of a sheet of paper in HDR (ITU-R BT.2408); brighter lights become white
_NUM_STEPS = 1024
_NEAR = 0.005
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_NCLX = re.compile(rb"colrnclx(.{4})", re.DOTALL)
_META_BYTES = 1 << 20  # the boxes that describe a picture come before it


def of_numbers(primaries: int, transfer: int) -> bytes | None:
    """The profile of a space by its two numbers; None if it is sRGB, or unknown."""
    curve = _curve(transfer)
    if primaries not in _PRIMARIES or curve is None or (primaries == 1 and transfer in _AS_SRGB):
        return None
    return _profile(_PRIMARIES[primaries], curve)


def of_chromaticities(primaries: Primaries, gamma: float) -> bytes | None:
    """The profile of a PNG's cHRM and gAMA (the exponent of its encoding, such as 0.45455); None if its primaries are sRGB's, or
    make no sense."""
    differences = (abs(a - b) for mine, srgb in zip(primaries, SRGB, strict=True) for a, b in zip(mine, srgb, strict=True))
    if max(differences) < _NEAR or not 0.05 < gamma < 5:
        return None
    return _profile(primaries, lambda value: float(value ** (1 / gamma)))


def of_heif(data: bytes) -> bytes | None:
    """The profile of an AVIF or a HEIC without one; None if it is sRGB or says nothing."""
    found = _NCLX.search(data, 0, _META_BYTES)
    return of_numbers(*struct.unpack(">HH", found[1])) if found else None


def _curve(transfer: int) -> Callable[[float], float] | None:
    """From a value to light, both 0 to 1, with white at 1."""
    if transfer in _AS_SRGB:
        return lambda value: value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
    return _CURVES.get(transfer)


def _pq(value: float) -> float:
    """SMPTE ST 2084."""
    root = value ** (1 / 78.84375)
    light: float = (max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    return 10_000 / _WHITE_NITS * light


def _hlg(value: float) -> float:
    """ITU-R BT.2100 on a display of 1,000 nits."""
    light = value**2 / 3 if value <= 0.5 else (2.718281828459045 ** ((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return float(1_000 / _WHITE_NITS * light**1.2)


_CURVES: dict[int, Callable[[float], float]] = {
    4: lambda value: value**2.2,
    5: lambda value: value**2.8,
    8: lambda value: value,
    16: _pq,
    18: _hlg,
}


def _profile(primaries: Primaries, curve: Callable[[float], float]) -> bytes | None:
    import numpy as np

    if not all(y > 0 for _, y in primaries):
        return None
    white, *lights = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in primaries)
    bradford, d50, columns = np.array(_BRADFORD), np.array(_D50), np.array(lights).T
    try:
        colorants = columns * np.linalg.solve(columns, white)
        adapted = np.linalg.solve(bradford, np.diag(bradford @ d50 / (bradford @ white)) @ bradford @ colorants)
    except np.linalg.LinAlgError:
        return None
    if not np.abs(adapted).max() < 2:  # nor if a value is no number
        return None
    steps = [round(65_535 * min(1.0, curve(step / (_NUM_STEPS - 1)))) for step in range(_NUM_STEPS)]
    return _packed([[float(value) for value in column] for column in adapted.T], struct.pack(f">{_NUM_STEPS}H", *steps))


def _packed(colorants: Sequence[Sequence[float]], steps: bytes) -> bytes:
    """The profile with the XYZ of red, green and blue (adapted to D50), and one curve for all three."""

    def numbers(values: Sequence[float]) -> bytes:
        return struct.pack(">3i", *(round(65_536 * value) for value in values))

    name = b"named by the file\0"
    bodies = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)}
    bodies[b"wtpt"] = b"XYZ \0\0\0\0" + numbers(_D50)
    bodies |= {
        letter + b"XYZ": b"XYZ \0\0\0\0" + numbers(column) for letter, column in zip((b"r", b"g", b"b"), colorants, strict=True)
    }
    bodies[b"rTRC"] = b"curv\0\0\0\0" + struct.pack(">I", _NUM_STEPS) + steps
    places, body, start = {}, b"", 132 + 12 * (len(bodies) + 2)
    for tag, value in bodies.items():
        places[tag] = struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    places[b"gTRC"] = places[b"bTRC"] = places[b"rTRC"]
    rest = struct.pack(">I", len(places)) + b"".join(tag + place for tag, place in places.items()) + body
    head = struct.pack(">I4xI4s4s4s12x4s", 128 + len(rest), 0x0210_0000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return head + bytes(28) + numbers(_D50) + bytes(48) + rest
