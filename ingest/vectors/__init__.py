"""Where teacher vectors come from: AudioMuse-AI's database or HTTP interface, or a table.

Where there are none, the source of audio names the tracks. Writes nothing.
"""
