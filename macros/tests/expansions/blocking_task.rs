#[deferred_task(blocking, name = "avatars.resize")]
fn resize(path: PathBuf) -> io::Result<()> {
    shrink(&path)
}
