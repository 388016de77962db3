#!/usr/bin/env python3
"""Changes mappings of a map-server over its gRPC API, and keeps a copy of them.

    client.py SOCKET            makes a change, then prints what happens
    client.py HOST:PORT --ca FILE --token-file FILE     by TLS, as a user with a token
    client.py SOCKET --once     ends when the copy has the change

It generates what it needs from the .proto files when it runs: with
grpcio-tools where that is installed (pip install grpcio-tools), else with
protoc and its plugin (apt install python3-grpcio protobuf-compiler
protobuf-compiler-grpc libprotobuf-dev).
"""

import argparse
import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[3] / "api" / "proto"


def generate(out):
    """Generates the Python of the .proto files into a directory."""
    files = [str(p) for p in sorted(PROTO.glob("eidolon/v1/*.proto"))]
    args = [f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if importlib.util.find_spec("grpc_tools"):
        command = [sys.executable, "-m", "grpc_tools.protoc"]
        # Its include directory has google/protobuf/*.proto.
        tools = pathlib.Path(importlib.util.find_spec("grpc_tools").origin).parent
        args.append(f"-I{tools / '_proto'}")
    else:
        command = ["protoc"]
        args.append(f"--plugin=protoc-gen-grpc_python={shutil.which('grpc_python_plugin')}")
    subprocess.run(command + args + files, check=True)


def put(mappings, pb, eid, rloc):
    """Puts a mapping if nobody changes it meanwhile; else reads it and tries again."""
    while True:
        try:
            revision = mappings.GetMapping(pb.GetMappingRequest(eid=eid)).mapping.put_revision
        except grpc.RpcError as e:
            if e.code() != grpc.StatusCode.NOT_FOUND:
                raise
            revision = 0  # it must not exist
        op = pb.MappingOperation(if_revision=revision)
        op.put.eid = eid
        op.put.locators.add(address=rloc, priority=1, weight=100)
        try:
            return mappings.BatchMappings(pb.BatchMappingsRequest(operations=[op])).revision
        except grpc.RpcError as e:
            if e.code() != grpc.StatusCode.ABORTED:
                raise


def pages(mappings, pb, within):
    """Yields the mappings inside an EID-prefix."""
    request = pb.PageMappingsRequest(within=within, page_size=100)
    while True:
        page = mappings.PageMappings(request)
        yield from page.mappings
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def watch(mappings, pb, copy):
    """Keeps a copy, and yields the revision that it has, and what changed."""
    after = None
    while True:
        request = pb.WatchMappingsRequest()
        if after is None:
            copy.clear()
        else:
            request.after_revision = after
        try:
            for message in mappings.WatchMappings(request):
                for change in message.changes:
                    if change.HasField("mapping"):
                        copy[change.eid] = change.mapping
                    else:
                        copy.pop(change.eid, None)
                if message.revision:
                    after = message.revision
                yield after, message.changes
        except grpc.RpcError as e:
            if e.code() == grpc.StatusCode.OUT_OF_RANGE:
                after = None  # too slow, or too late: begin again with a snapshot
            else:
                raise


def connect(daemon, ca, token_file):
    """Connects to a Unix socket, or by TLS to a host and port."""
    if "/" in daemon:
        return grpc.insecure_channel(f"unix:{daemon}")
    roots = pathlib.Path(ca).read_bytes() if ca else None  # of the system
    credentials = grpc.ssl_channel_credentials(roots)
    if token_file:
        token = pathlib.Path(token_file).read_text().strip()
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return grpc.secure_channel(daemon, credentials)


def main(daemon, ca, token_file, once):
    out = tempfile.TemporaryDirectory()
    generate(out.name)
    sys.path.insert(0, out.name)
    from eidolon.v1 import mapping_pb2 as pb
    from eidolon.v1 import mapping_pb2_grpc as rpc

    with connect(daemon, ca, token_file) as channel:
        mappings = rpc.MappingServiceStub(channel)
        revision = put(mappings, pb, "[7]2001:db8:7::/48", "192.0.2.7")
        print(f"put at revision {revision}")
        for m in pages(mappings, pb, "[7]::/0"):
            print(f"there is {m.record.eid} at {', '.join(l.address for l in m.record.locators)}")
        copy = {}
        for have, changes in watch(mappings, pb, copy):
            for change in changes:
                print(f"revision {change.revision}: {change.eid} {'is there' if change.HasField('mapping') else 'is gone'}")
            if once and have is not None and have >= revision:
                print(f"the copy has {len(copy)} mappings at revision {have}")
                return


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("daemon", help="a Unix socket, or host and port")
    parser.add_argument("--ca", help="file of the CA that has signed the certificate of the map-server")
    parser.add_argument("--token-file", help="file with the token of the user")
    parser.add_argument("--once", action="store_true", help="end when the copy has the change")
    args = parser.parse_args()
    main(args.daemon, args.ca, args.token_file, args.once)
