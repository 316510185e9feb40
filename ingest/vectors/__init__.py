"""Where teacher vectors come from: AudioMuse-AI's database or HTTP interface, tables, a teacher over a folder.
Writes nothing.
"""
