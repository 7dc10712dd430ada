"""Real gRPC through a proxy: every kind of call, both ways, as grpcio does them.

    grpc_calls.py serve                   a server on a free port, which it prints
    grpc_calls.py call TARGET [CA NAME]   calls it at TARGET (host:port), by TLS if there is a CA

Messages are bytes: no generated code is needed. `call` prints a line for each kind that worked and
ends with 1 at the first that did not.
"""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "portolan.Calls"
MESSAGE_MAX = 8 * 1024 * 1024
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    # Two channels of one process would share a connection otherwise.
    ("grpc.use_local_subchannel_pool", 1),
]
# No call here needs longer, unless it is broken.
PATIENCE = 60
cancelled = threading.Event()


def echo(request, context):
    context.set_trailing_metadata((("seen-by", "server"),))
    return request


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "said to fail: " + request.decode())


def count_down(request, context):
    for number in range(int(request), 0, -1):
        yield str(number).encode()


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def chat(requests, context):
    for request in requests:
        yield b"you said " + request


def hang(request, context):
    """Streams one message and then waits to be cancelled."""
    context.add_callback(cancelled.set)
    yield b"waiting"
    while context.is_active():
        time.sleep(0.01)


def was_cancelled(request, context):
    heard = cancelled.wait(PATIENCE / 2)
    cancelled.clear()
    return b"yes" if heard else b"no"


def serve():
    server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "CountDown": grpc.unary_stream_rpc_method_handler(count_down),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Hang": grpc.unary_stream_rpc_method_handler(hang),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: got {found!r}, expected {wanted!r}")
    print(what, "ok", flush=True)


def open_channel(target, ca=None, name=None):
    if ca is None:
        return grpc.insecure_channel(target, options=OPTIONS)
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options = [*OPTIONS, ("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)]
    return grpc.secure_channel(target, credentials, options=options)


def call(channel):
    def method(kind, name):
        return getattr(channel, kind)(f"/{SERVICE}/{name}")

    unary = method("unary_unary", "Echo")
    answer, done = unary.with_call(b"hello", timeout=PATIENCE, metadata=(("who", "me"),))
    expect("unary", answer, b"hello")
    expect("trailing metadata", dict(done.trailing_metadata()).get("seen-by"), "server")
    big = bytes(range(256)) * (4 * 4096)
    expect("4 MiB messages", unary(big, timeout=PATIENCE) == big, True)
    expect("an empty message", unary(b"", timeout=PATIENCE), b"")

    try:
        method("unary_unary", "Fail")(b"so", timeout=PATIENCE)
        sys.exit("a failing call did not fail")
    except grpc.RpcError as error:
        expect("a status", (error.code(), error.details()),
               (grpc.StatusCode.FAILED_PRECONDITION, "said to fail: so"))
    try:
        method("unary_unary", "Unknown")(b"", timeout=PATIENCE)
        sys.exit("an unknown method did not fail")
    except grpc.RpcError as error:
        expect("an unknown method", error.code(), grpc.StatusCode.UNIMPLEMENTED)

    numbers = list(method("unary_stream", "CountDown")(b"1000", timeout=PATIENCE))
    expect("server streaming", (len(numbers), numbers[0], numbers[-1]), (1000, b"1000", b"1"))
    pieces = (b"x" * 1000 for _ in range(1000))
    expect("client streaming", method("stream_unary", "Total")(pieces, timeout=PATIENCE), b"1000000")

    # Each word is said only when the last one was answered: nothing may wait for the end.
    answered = threading.Semaphore(1)

    def words():
        for word in (b"a", b"b", b"c"):
            if not answered.acquire(timeout=PATIENCE):
                return
            yield word

    replies = []
    for reply in method("stream_stream", "Chat")(words(), timeout=PATIENCE):
        replies.append(reply)
        answered.release()
    expect("both streaming, in turn", replies, [b"you said a", b"you said b", b"you said c"])

    try:
        list(method("unary_stream", "Hang")(b"", timeout=0.5))
        sys.exit("a deadline did not end the call")
    except grpc.RpcError as error:
        expect("a deadline", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    was_cancelled = method("unary_unary", "WasCancelled")
    expect("the server heard of it", was_cancelled(b"", timeout=PATIENCE), b"yes")

    stream = method("unary_stream", "Hang")(b"", timeout=PATIENCE)
    expect("a stream begins", next(stream), b"waiting")
    stream.cancel()
    expect("cancelled", stream.code(), grpc.StatusCode.CANCELLED)
    expect("the server heard of that", was_cancelled(b"", timeout=PATIENCE), b"yes")

    calls = [unary.future(str(number).encode(), timeout=PATIENCE) for number in range(200)]
    expect("200 at once", [int(call.result()) for call in calls], list(range(200)))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["call", target, *tls]:
            with open_channel(target, *tls) as opened:
                call(opened)
        case _:
            sys.exit(__doc__)
