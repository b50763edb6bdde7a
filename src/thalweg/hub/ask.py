"""The `credential_process` of people's programs: `python -I ask.py SOCKET` prints keys as JSON.

It imports nothing of the library: some SDKs run it for each file system that they open.
"""

import json
import socket
import sys


def main(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(30)
        try:
            asked.connect(path)
            answer = b"".join(iter(lambda: asked.recv(65536), b""))
            told = json.loads(answer)
        except (OSError, ValueError) as error:
            sys.exit(f"thalweg: no keys of the object store ({error}): is the hub up?")
    if "error" in told:
        sys.exit(f"thalweg: no keys of the object store: {told['error']}")
    return answer.decode()


if __name__ == "__main__":
    print(main(sys.argv[1]))
