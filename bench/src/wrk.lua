-- What wrk has measured, in one line that a program reads.
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        "measured requests=%d microseconds=%d status=%d cut=%d timeout=%d p50=%d p99=%d\n",
        summary.requests, summary.duration, errors.status,
        errors.connect + errors.read + errors.write, errors.timeout,
        latency:percentile(50), latency:percentile(99)))
end
