"""Agents and a collector in one process, from a seed: the protocol is real, the faults are planned.

ranks.py      simulated ranks that write real segment files, and remember what they wrote
node.py       the real Streams and Uplink over those files; crashes, reboots, a disk that forgets
collector.py  the real Session over a MemoryStore; crashes, failing commits, wiped, restored
network.py    links that carry bytes in order until they are cut
world.py      who does what next, and what must hold at the end
__main__.py   thousands of seeds by hand: python -m tests.simulation --seeds 1000
"""
