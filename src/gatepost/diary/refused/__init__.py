"""Refusals: counted in memory, flushed each second, a few told in full. The tables live in the gate's file."""
