"""The properties of a portrait that are not attributes, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rgcluster.faces.canvas.texture import NOISE_ROOM

__all__ = ["Identity"]


@dataclass(frozen=True)
class Identity:
    """One person in one picture; lengths in pixels, angles in radians, the rest in 0..1 or factors."""

    # pose and place
    yaw: float
    pitch: float
    roll: float
    scale: float
    shift_x: float
    shift_y: float
    # build
    head_width: float
    head_length: float
    eye_distance: float
    eye_size: float
    eye_tilt: float
    brow_height: float
    nose_length: float
    mouth_width: float
    mouth_height: float
    asymmetry: float
    skin_depth: float
    iris: int
    lips: int
    # hair
    hair_shade: int
    hair_volume: float
    hair_length: float
    parting: float
    beard_length: float
    # light
    light_x: float
    light_y: float
    ambient: float
    warmth: float
    exposure: float
    # what surrounds the face
    backdrop: int
    backdrop_colours: np.ndarray  # [4, 3]
    cloth: np.ndarray  # [3]
    neckline: float
    glasses: int
    hat: int
    # noise
    phases: np.ndarray  # [6] in 0 .. 2 pi
    spots: np.ndarray  # [9, 3]: place and size
    clouds_at: tuple[int, int]
    speckles_at: tuple[int, int]
    grain_at: tuple[int, int]

    @classmethod
    def from_seed(cls, seed: int) -> Identity:
        """Draw every value, always in the order of the fields."""
        rng = np.random.default_rng([seed, 7])

        def between(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        def one_of(count: int) -> int:
            return int(rng.integers(count))

        def offset() -> tuple[int, int]:
            return one_of(NOISE_ROOM), one_of(NOISE_ROOM)

        return cls(
            yaw=between(-0.42, 0.42) * between(0.2, 1.0),
            pitch=between(-0.1, 0.1),
            roll=between(-0.07, 0.07),
            scale=between(0.95, 1.06),
            shift_x=between(-2.5, 2.5),
            shift_y=between(-2.0, 2.0),
            head_width=between(0.95, 1.05),
            head_length=between(0.96, 1.04),
            eye_distance=between(18.6, 20.4),
            eye_size=between(0.94, 1.1),
            eye_tilt=between(-0.06, 0.12),
            brow_height=between(12.0, 14.5),
            nose_length=between(23.0, 26.5),
            mouth_width=between(14.0, 16.5),
            mouth_height=between(41.0, 43.5),
            asymmetry=between(-1.0, 1.0),
            skin_depth=between(0.0, 1.0) ** 1.5,
            iris=one_of(5),
            lips=one_of(3),
            hair_shade=one_of(3),
            hair_volume=between(0.0, 1.0),
            hair_length=between(0.0, 1.0),
            parting=between(-14.0, 14.0),
            beard_length=between(0.0, 1.0),
            light_x=between(-0.75, 0.75),
            light_y=between(-0.6, -0.1),
            ambient=between(0.60, 0.78),
            warmth=between(-0.05, 0.06),
            exposure=between(0.9, 1.08),
            backdrop=one_of(4),
            backdrop_colours=rng.random((4, 3), dtype=np.float32),
            cloth=rng.random(3, dtype=np.float32),
            neckline=between(0.0, 1.0),
            glasses=one_of(4),
            hat=one_of(3),
            phases=(rng.random(6, dtype=np.float32) * np.float32(2 * np.pi)),
            spots=rng.random((9, 3), dtype=np.float32),
            clouds_at=offset(),
            speckles_at=offset(),
            grain_at=offset(),
        )
