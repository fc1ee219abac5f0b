"""A user's own configuration, as a test writes it."""

TOY = "kind: chat\nsource: path:/weights/toy\nlicence: {spdx: MIT, url: 'https://example.com/toy'}\n"


def own_file(tmp_path, name, text):
    path = tmp_path / "own" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path
