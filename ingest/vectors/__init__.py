"""Where teacher vectors come from: AudioMuse-AI's database or HTTP interface, tables; else the source of audio names the
tracks. Writes nothing.
"""
