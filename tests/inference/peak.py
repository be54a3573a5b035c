"""How much memory tensors take at a time."""

from torch.profiler import ProfilerActivity, profile


def peak_bytes(run):
    """Most bytes that tensors of `run` took at a time, by PyTorch's own allocator on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    held, most = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
