#!/usr/bin/env python3
"""check_includes.py finds what it is meant to find."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).parent / "check_includes.py"


class CheckIncludes(unittest.TestCase):
    def run_on(self, files):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "tools").mkdir()
            (root / "tools/floors.txt").write_text("base\nchips\ncli\nserver\n")
            for name, text in files.items():
                path = root / "src" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            done = subprocess.run([sys.executable, TOOL, root], capture_output=True, text=True)
            return done.returncode, done.stdout

    def test_downwards_is_fine(self):
        code, out = self.run_on({"base/a.h": "", "chips/b.cc": '#include "base/a.h"\n'})
        self.assertEqual(code, 0, out)

    def test_upwards_is_found(self):
        code, out = self.run_on({"base/a.cc": '#include "chips/b.h"\n', "chips/b.h": ""})
        self.assertEqual(code, 1)
        self.assertIn("calls upwards", out)

    def test_relative_and_unknown_paths_are_found(self):
        code, out = self.run_on({"chips/b.cc": '#include "../base/a.h"\n', "base/a.h": ""})
        self.assertEqual(code, 1, out)

    def test_heavy_headers_stay_in_their_folder(self):
        code, out = self.run_on({"chips/b.cc": "#include <boost/asio.hpp>\n"})
        self.assertEqual(code, 1, out)

    def test_the_cli_is_a_client(self):
        code, out = self.run_on({"chips/b.h": "", "cli/c.cc": '#include "chips/b.h"\n'})
        self.assertEqual(code, 1, out)

    def test_nothing_to_read_is_a_failure(self):
        code, _ = self.run_on({})
        self.assertEqual(code, 1)


if __name__ == "__main__":
    unittest.main()
