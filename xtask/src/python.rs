//! The Python package: its wheel, and its tests.

use std::env::{join_paths, split_paths};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::command::{ask, cargo, read, root, run, without_own_settings};

/// Build the wheel of the Python package for release, into `target/wheels`.
///
/// The command `httppubsub` is in it. Beside it are the wheels of `httppubsubclient` and
/// `httppubsubserver`, which only depend on it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Wheel {
    /// Build for Linux systems like this one or newer, with this system's own compiler.
    ///
    /// Otherwise a wheel for Linux is linked by zig, and runs with glibc 2.17 and newer.
    #[arg(long)]
    native: bool,
}

impl Wheel {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let python = tools()?;
        let target = match self.native || !cfg!(target_os = "linux") {
            true => Target::Release,
            false => Target::OldLinux,
        };
        let wheel = build(&python, target)?;
        let wheels = wheel.parent().context("it is in a folder")?;
        for name in ["httppubsubclient", "httppubsubserver"] {
            let mut dependent = pip(&python, ["wheel", "--quiet", "--no-deps", "--wheel-dir"]);
            // Building leaves files beside the source.
            let source = root().join("target/distributions").join(name);
            fs::create_dir_all(&source)?;
            let project = root().join("python/distributions").join(name);
            fs::copy(
                project.join("pyproject.toml"),
                source.join("pyproject.toml"),
            )?;
            run(dependent.arg(wheels).arg(source))?;
        }
        let mut sdist = Command::new(python.with_file_name("maturin"));
        sdist.args(["sdist", "--out"]).arg(wheels);
        without_own_settings(&mut sdist);
        run(sdist.current_dir(root()))?;
        let bytes = fs::metadata(&wheel)?.len();
        ensure!(bytes <= WHEEL_BYTES_MAX, "the wheel has {bytes} bytes");
        check_alone(&wheel)?;
        eprintln!("{}: {bytes} bytes", wheel.display());
        Ok(())
    }
}

/// The largest wheel for release.
const WHEEL_BYTES_MAX: u64 = 12_000_000;

/// What a wheel is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Tests on this machine.
    Dev,
    /// Systems like this one.
    Release,
    /// Linux of the last ten years, which `manylinux2014` stands for.
    OldLinux,
}

/// Lints, types and tests of the package as it is installed. Returns the closing line of pytest,
/// and what was not checked.
pub(crate) fn test() -> anyhow::Result<Option<String>> {
    let python = tools()?;
    let wheel = build(&python, Target::Dev)?;
    check_alone(&wheel)?;
    install(&python, &wheel)?;
    check_types(&python)?;
    let mut note = pytest(&python)?;
    if version(&python).is_none_or(|version| version < (3, 12)) {
        note.push_str("; first README only with its one substitution");
    }
    Ok(Some(note))
}

/// Measures the wheel for release next to the published client, which the tests of `interop` have
/// installed, and to the Rust client.
pub(crate) fn bench(options: &[OsString]) -> anyhow::Result<()> {
    let published = root().join("target/interop-venv/bin/python");
    ensure!(
        published.exists(),
        "the published client is not installed: `cargo xtask test --only interop` does it"
    );
    let python = tools()?;
    let wheel = build(&python, Target::Release)?;
    install(&python, &wheel)?;
    run(&mut cargo(["build", "--release", "-p", "httppubsub-bench"]))?;
    let mut bench = Command::new(&python);
    bench.arg(root().join("python/bench/bench.py"));
    bench.arg("--published").arg(published);
    bench
        .arg("--rust")
        .arg(root().join("target/release/httppubsub-bench"));
    run(bench.arg("--wheel").arg(wheel).args(options))
}

/// The Python that the package is tested with: the newest that there is.
pub(crate) fn missing() -> Option<String> {
    let Some(python) = base_python() else {
        return Some(format!(
            "no Python 3.11 or newer: install one (Debian, Ubuntu: `apt-get install python3 \
             python3-venv`), or name it in {PYTHON_VARIABLE}"
        ));
    };
    // Debian has `venv` without the `ensurepip` that it needs in a package of its own.
    let has_venv = ask(Command::new(&python).args(["-c", "import venv, ensurepip"])).is_some();
    (!has_venv).then(|| {
        format!(
            "{} cannot make virtual environments: install its venv module (Debian, Ubuntu: \
             `apt-get install python3-venv`)",
            python.display()
        )
    })
}

fn base_python() -> Option<PathBuf> {
    let candidates = match std::env::var_os(PYTHON_VARIABLE) {
        Some(named) => vec![named.into()],
        None => {
            let names = ["python3.13", "python3.12"].map(PathBuf::from);
            let others = ["python3", "python3.11"].map(PathBuf::from);
            names.into_iter().chain(of_pyenv()).chain(others).collect()
        }
    };
    let is_suitable = |it: &PathBuf| version(it).is_some_and(|it| it >= (3, 11));
    candidates.into_iter().find(is_suitable)
}

/// Pythons of pyenv, which shows only the chosen one on the path.
fn of_pyenv() -> Vec<PathBuf> {
    let in_home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv"));
    let folder = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let Some(folder) = folder.or_else(in_home) else {
        return Vec::new();
    };
    let Ok(versions) = fs::read_dir(folder.join("versions")) else {
        return Vec::new();
    };
    let versions = versions.filter_map(|it| Some(it.ok()?.path()));
    let is_newer = |it: &PathBuf| {
        let name = it.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with("3.12.") || name.starts_with("3.13.")
    };
    let mut versions: Vec<_> = versions.filter(is_newer).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions
        .into_iter()
        .map(|it| it.join("bin/python"))
        .collect()
}

fn version(python: &Path) -> Option<(u32, u32)> {
    let program = "import sys; print('%d %d' % sys.version_info[:2])";
    let version = ask(Command::new(python).args(["-c", program]))?;
    let (major, minor) = version.trim().split_once(' ')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The Python of an environment with the tools, made again when `python/requirements.txt` changes.
fn tools() -> anyhow::Result<PathBuf> {
    let requirements = root().join("python/requirements.txt");
    let made_from = fs::read_to_string(&requirements)?;
    let venv = root().join("target/python-venv");
    let (python, marker) = (venv.join("bin/python"), venv.join("made-from"));
    if python.exists() && fs::read_to_string(&marker).is_ok_and(|it| it == made_from) {
        return Ok(python);
    }
    make_venv(&venv)?;
    let mut install = pip(&python, ["install", "--quiet", "--require-hashes", "-r"]);
    run(install.arg(&requirements))?;
    // Last, so that an environment that was not finished is made again.
    fs::write(marker, made_from)?;
    Ok(python)
}

fn make_venv(venv: &Path) -> anyhow::Result<()> {
    let base = base_python().context("there is no Python 3.11 or newer")?;
    run(Command::new(base).args(["-m", "venv", "--clear"]).arg(venv))
}

fn pip<const N: usize>(python: &Path, arguments: [&str; N]) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "--disable-pip-version-check"]);
    pip.args(arguments);
    pip
}

/// Builds the wheel, with the command in it, and returns its path.
fn build(python: &Path, target: Target) -> anyhow::Result<PathBuf> {
    let built = build_command(python, target)?;
    let data = root().join("target/python-data");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    let command = data.join("scripts/httppubsub");
    fs::create_dir_all(data.join("scripts"))?;
    fs::copy(&built, &command).with_context(|| format!("cannot copy {}", built.display()))?;
    if ask(Command::new("strip").arg(&command)).is_none() {
        eprintln!("the command in the wheel has its symbols: `strip` is missing");
    }
    if target != Target::Dev {
        write_licences(python, &data.join("data/share/doc/httppubsub"))?;
    }
    let wheels = match target {
        Target::Dev => root().join("target/wheels-dev"),
        Target::Release | Target::OldLinux => root().join("target/wheels"),
    };
    if wheels.exists() {
        fs::remove_dir_all(&wheels)?;
    }
    let mut maturin = Command::new(python.with_file_name("maturin"));
    maturin.args(["build", "--locked", "--out"]).arg(&wheels);
    match target {
        Target::Dev => &mut maturin,
        Target::Release => maturin.arg("--release"),
        Target::OldLinux => maturin
            .args(["--release", "--zig", "--compatibility", "manylinux2014"])
            .args(["--target", &linux()])
            .env("PATH", path_of(python)?),
    };
    maturin.arg("--interpreter").arg(python);
    without_own_settings(&mut maturin);
    run(maturin.current_dir(root()))?;
    let made = fs::read_dir(&wheels)?
        .next()
        .context("maturin made no wheel")?;
    Ok(made?.path())
}

/// Builds the program `httppubsub` and returns its path.
fn build_command(python: &Path, target: Target) -> anyhow::Result<PathBuf> {
    // Of the whole workspace, as the step `build` has it: of the package alone, the same
    // dependencies would be compiled with other features.
    let what = ["--workspace", "--bin", "httppubsub"];
    let built = match target {
        Target::Dev => {
            run(cargo(["build"]).args(what))?;
            "debug".to_owned()
        }
        Target::Release => {
            run(cargo(["build", "--release"]).args(what))?;
            "release".to_owned()
        }
        Target::OldLinux => {
            let mut install = pip(python, ["install", "--quiet", "--require-hashes", "-r"]);
            run(install.arg(root().join("python/requirements-wheel.txt")))?;
            let mut zigbuild = cargo(["zigbuild", "--release"]);
            zigbuild.args(what).env("PATH", path_of(python)?);
            run(zigbuild.arg(format!("--target={}.2.17", linux())))?;
            format!("{}/release", linux())
        }
    };
    Ok(root().join("target").join(built).join("httppubsub"))
}

/// The name by which Rust knows Linux on this machine's processor.
fn linux() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Writes the licences of the crates in the wheel.
fn write_licences(python: &Path, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let metadata = root().join("target/metadata.json");
    let arguments = [
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
    ];
    fs::write(&metadata, read(cargo(arguments).arg(linux()))?)?;
    let mut licences = Command::new(python);
    licences.arg(root().join("python/tools/licences.py"));
    licences.stdin(File::open(metadata)?);
    run(licences.stdout(File::create(folder.join("LICENSE-binary"))?))
}

/// The path on which programs are found, with those of the environment first.
fn path_of(python: &Path) -> anyhow::Result<OsString> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let own = python.parent().map(Path::to_path_buf);
    Ok(join_paths(own.into_iter().chain(split_paths(&folders)))?)
}

/// The wheel in an environment with nothing else.
fn check_alone(wheel: &Path) -> anyhow::Result<()> {
    let venv = root().join("target/python-venv-alone");
    make_venv(&venv)?;
    let python = venv.join("bin/python");
    install(&python, wheel)?;
    let alone = root().join("python/tests/alone.py");
    run(Command::new(&python)
        .args(["-X", "dev", "-W", "error"])
        .arg(alone))
}

fn install(python: &Path, wheel: &Path) -> anyhow::Result<()> {
    let options = [
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--force-reinstall",
    ];
    run(pip(python, options).arg(wheel))
}

fn check_types(python: &Path) -> anyhow::Result<()> {
    // basedpyright looks for packages in the environment of the first `python` that it finds.
    let path = path_of(python)?;
    let tool = |arguments: &[&str]| {
        let mut command = Command::new(python);
        command.env("PATH", &path);
        command.arg("-m").args(arguments).current_dir(root());
        run(&mut command)
    };
    tool(&["ruff", "check", "python"])?;
    tool(&["ruff", "format", "--check", "python"])?;
    tool(&["mypy", "-p", "httppubsub", "-p", "httppubsubclient"])?;
    tool(&["mypy", "python/tests"])?;
    tool(&[
        "mypy",
        "python/bench/bench.py",
        "python/bench/worker.py",
        "python/tools",
    ])?;
    tool(&["mypy.stubtest", "httppubsub", "--ignore-missing-stub"])?;
    tool(&["mypy.stubtest", "httppubsubclient", "--ignore-missing-stub"])?;
    tool(&["basedpyright", "--level", "error", "python/tests/uses.py"])?;
    tool(&[
        "basedpyright",
        "--verifytypes",
        "httppubsub",
        "--ignoreexternal",
    ])?;
    tool(&[
        "basedpyright",
        "--verifytypes",
        "httppubsubclient",
        "--ignoreexternal",
    ])
}

/// Runs the tests in view of the user; returns the closing line.
fn pytest(python: &Path) -> anyhow::Result<String> {
    let mut pytest = Command::new(python);
    pytest.args(["-X", "dev", "-W", "error", "-m", "pytest", "-q"]);
    let started = pytest.current_dir(root()).stdout(Stdio::piped()).spawn();
    let mut pytest = started.context("cannot start pytest")?;
    let said = pytest.stdout.take().context("its output is piped")?;
    let mut last = String::new();
    for line in BufReader::new(said).lines() {
        let line = line?;
        eprintln!("{line}");
        if !line.is_empty() {
            last = line;
        }
    }
    let status = pytest.wait()?;
    ensure!(status.success(), "pytest failed: {last}");
    Ok(last)
}

const PYTHON_VARIABLE: &str = "HTTPPUBSUB_PYTHON";
