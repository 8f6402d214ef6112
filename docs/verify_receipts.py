"""Verify a teacher's exported history, and receipts. Exit code 0: sound, 1: not sound, 2: cannot be read."""

import argparse
import hashlib
import json

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LATER = {"format", "teacher_digest", "disclosure_digest", "detail"}  # which format 1 does not have
faults = []


def canonical(event):  # the bytes that are hashed and signed
    fields = {k: v for k, v in event.items() if k != "hash" and (k not in LATER or event.get("format", 1) != 1)}
    assert all(type(value) in (int, str) for value in fields.values()), "only integers and strings are allowed"
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def is_signed(key, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key["public_key"])).verify(bytes.fromhex(signature), message)
        return signature == bytes.fromhex(signature).hex()
    except (InvalidSignature, ValueError, TypeError):
        return False


def followers(first, keys):  # a key, and those that follow from it by endorsements
    keys = [key for key in keys if hashlib.sha256(bytes.fromhex(key["public_key"])).hexdigest() == key["fingerprint"]]
    trusted = {key["fingerprint"]: key for key in keys if key["fingerprint"] == first}
    for key in keys * len(keys):
        message = b"blackbox-distillation signing key\n" + bytes.fromhex(key["public_key"])
        if key["endorsed_by"] in trusted and is_signed(trusted[key["endorsed_by"]], message, key["endorsement"]):
            trusted[key["fingerprint"]] = key
    return trusted


def check_line(line, trusted, file, *, is_receipt):  # one event with its signature
    event, key = line["event"], trusted.get(line["signing_key"])
    where = f"{file}: key {event['key_name']}, event {event['sequence']}"
    if event["hash"] != hashlib.sha256(canonical(event)).hexdigest():
        faults.append(f"{where} was edited: its content does not have its hash")
    if event.get("format", 1) != 1 or is_receipt:
        is_good = key and is_signed(key, b"blackbox-distillation event\n" + canonical(event), line["signature"])
        if not is_good or event["at"] > (key["retired_at"] or event["at"]):
            faults.append(f"{where} is unsigned or forged, or by a key that is not trusted or was retired before it")
    return event


def check_chain(header, events, file):  # all events of one key, in order
    spent, granted, last = 0, 0, {"sequence": 0, "hash": "0" * 64, "at": ""}
    for event in events:
        spent += event["images"] if event["kind"] == "answer" else 0
        granted += event["images"] if event["kind"] in ("create", "grant") else 0
        where = f"{file}: event {event['sequence']}"
        if event["sequence"] != last["sequence"] + 1 or event["previous_hash"] != last["hash"]:
            faults.append(f"{where} does not continue event {last['sequence']}: missing, repeated, moved or edited")
        if (event["spent"], event["granted"], event["key_name"]) != (spent, granted, header["key_name"]):
            faults.append(f"{where} has wrong sums, or is another key's")
        if event["at"] < last["at"] if event.get("format", 1) != 1 else last.get("format", 1) != 1:
            faults.append(f"{where}: time goes backwards, or it is unsigned after signed ones")
        last = event
    found = {"spent": spent, "granted": granted, "events": len(events), "last_hash": last["hash"]}
    faults.extend(f"{file}: {k} is {header[k]}, not {v}: cut or changed" for k, v in found.items() if header[k] != v)


def main(given):
    files = {file: [json.loads(line) for line in open(file, encoding="utf-8")] for file in given.files}
    exports = {file: lines.pop(0)["export"] for file, lines in files.items() if "export" in lines[0]}
    assert given.keys or exports, "receipts do not say which keys are the teacher's: give --keys, or the history too"
    keys = json.load(open(given.keys))["keys"] if given.keys else next(iter(exports.values()))["signing_keys"]
    trusted = followers(next(key["fingerprint"] for key in keys if not key["endorsed_by"]), keys)
    pinned, chains = followers(given.pin, keys) if given.pin else trusted, {}
    faults.extend([] if pinned else [f"the pinned key {given.pin} is not among the signing keys"])
    for file, lines in sorted(files.items(), key=lambda item: item[0] not in exports):  # receipts last
        keys = trusted if file in exports else pinned
        events = [check_line(line, keys, file, is_receipt=file not in exports) for line in lines]
        print(f"{file}: {len(events)} {'events' if file in exports else 'receipts'}")
        if file in exports:
            check_chain(exports[file], events, file)
            chains[exports[file]["key_name"]] = {event["sequence"]: event["hash"] for event in events}
            if lines and lines[-1]["signing_key"] not in pinned:
                print("note: the pinned key does not vouch for the last events")
        elif chains:
            missing = [e for e in events if chains.get(e["key_name"], {}).get(e["sequence"]) != e["hash"]]
            faults.extend(f"{file}: event {e['sequence']}: the history lacks what a receipt proves" for e in missing)
    print("\n".join(faults) or "sound")
    return 1 if faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="of `teacher audit export`, and of `distill audit --receipts`")
    parser.add_argument("--keys", help="the answer of /.well-known/teacher-signing-keys; an export has its own")
    parser.add_argument("--pin", help="the fingerprint of a signing key that you know to be right")
    try:
        raise SystemExit(main(parser.parse_args()))
    except Exception as error:  # whatever a file holds
        parser.exit(2, f"cannot be read: {type(error).__name__}: {error}\n")
