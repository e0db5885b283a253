import dataclasses

import jax

from yolov7_jax.training import mesh as meshes
from yolov7_jax.training.mesh import make_mesh


def test_the_rows_of_a_process_lie_together_however_devices_are_numbered(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Device:
        process_index: int
        id: int

    numbered = [Device(number % 2, number) for number in range(6)]
    monkeypatch.setattr(jax, "devices", lambda: numbered)
    monkeypatch.setattr(meshes, "Mesh", lambda devices, axes: devices)
    order = [(device.process_index, device.id) for device in make_mesh(12)]
    assert order == [(0, 0), (0, 2), (0, 4), (1, 1), (1, 3), (1, 5)]
