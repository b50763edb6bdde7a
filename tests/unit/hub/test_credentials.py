"""Keys of the store for a person, made and enforced by the real store."""

import contextlib
import datetime as dt
import json
import os
import socket

import botocore.session
import pyarrow as pa
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError
from iam import allows
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import ForbiddenError
from s3fs import S3FileSystem

from thalweg import accounts, warehouse
from thalweg.errors import NotFound
from thalweg.hub import credentials, object_store, state, users
from thalweg.hub.ask import main as ask_for_keys


@pytest.fixture
def keys(store):
    """Keys of a person, made when they are asked for."""
    if not users.names(store):
        for name in ("alice", "bob"):
            users.add(store, name, ["researchers"])
        users.add(store, "paula", ["partners"])
    return lambda person: credentials.issue(person, store)


def client(store, key, service="s3"):
    return botocore.session.Session().create_client(
        service,
        endpoint_url=f"http://127.0.0.1:{state.ports(store)['s3']}",
        region_name="us-east-1",
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
        aws_session_token=key["SessionToken"],
        config=Config(parameter_validation=False, retries={"max_attempts": 0}),
    )


def test_a_person_has_their_own_part_and_not_that_of_another(store, keys):
    alice, bob = (client(store, keys(name)) for name in ("alice", "bob"))
    own, theirs = ({"Bucket": "users", "Key": f"{name}/notes"} for name in ("alice", "bob"))
    alice.put_object(**own, Body=b"a")
    bob.put_object(**theirs, Body=b"b")
    assert alice.get_object(**own)["Body"].read() == b"a"
    listed = alice.list_objects_v2(Bucket="users", Prefix="alice/")
    assert [each["Key"] for each in listed["Contents"]] == ["alice/notes"]
    upload = {"Bucket": "users", "Key": "bob/more"}
    for refused in (
        lambda: alice.get_object(**theirs),
        lambda: alice.head_object(**theirs),
        lambda: alice.put_object(**theirs, Body=b"mine"),
        lambda: alice.delete_object(**theirs),
        lambda: alice.copy_object(**own, CopySource="users/bob/notes"),
        lambda: alice.create_multipart_upload(**upload),
        lambda: alice.list_objects_v2(Bucket="users", Prefix="bob/"),
        lambda: alice.list_objects_v2(Bucket="users", Prefix=""),
        lambda: alice.list_objects_v2(Bucket="users"),
        lambda: alice.put_object_acl(**theirs, ACL="public-read"),
        lambda: alice.put_bucket_policy(Bucket="users", Policy="{}"),
        lambda: alice.delete_bucket(Bucket="users"),
        lambda: alice.create_bucket(Bucket="mine"),
    ):
        with pytest.raises(ClientError) as error:
            refused()
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    deleted = alice.delete_objects(Bucket="users", Delete={"Objects": [{"Key": "bob/notes"}]})
    assert deleted["Errors"][0]["Code"] == "AccessDenied"
    assert bob.get_object(**theirs)["Body"].read() == b"b"


def test_what_is_shared_can_be_read_and_not_changed(store, keys):
    S3FileSystem(endpoint_url=f"http://127.0.0.1:{state.ports(store)['s3']}").pipe("raw/a", b"1")
    alice = client(store, keys("alice"))
    assert alice.get_object(Bucket="raw", Key="a")["Body"].read() == b"1"
    assert alice.list_objects_v2(Bucket="raw")["KeyCount"] == 1
    for refused in (alice.delete_object, alice.put_object):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused(Bucket="raw", Key="a")


def test_keys_make_no_other_keys(store, keys):
    alice = keys("alice")
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    for ask in (
        lambda: client(store, alice, "sts").assume_role(RoleSessionName="bob"),
        lambda: client(store, alice, "sts").assume_role(RoleSessionName="bob", Policy=policy),
        lambda: client(store, alice, "sts").get_federation_token(Name="bob", Policy=policy),
        lambda: client(store, alice, "iam").create_access_key(UserName="hub"),
        lambda: client(store, alice, "iam").list_users(),
    ):
        with pytest.raises(ClientError) as error:
            ask()
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] >= 400


def test_tables_are_read_by_the_default_chain_and_not_changed(store, keys, tmp_path, monkeypatch):
    warehouse.migrate(store)
    object_store.let_people_read_tables(store)
    told = tmp_path / "told"
    told.write_text(json.dumps(keys("alice")))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = /bin/cat {told}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    S3FileSystem.clear_instance_cache()
    credentials.write_clients(store)
    written = yaml.safe_load((store.data_dir / "clients" / ".pyiceberg.yaml").read_text())
    catalog = load_catalog("alice", **written["catalog"][store.warehouse])
    table = catalog.load_table("hydro.configurations")
    assert table.scan().to_arrow().num_rows == 0
    row = {"name": "x", "type": "secondary", "description": "y"}
    with pytest.raises((ForbiddenError, OSError)):
        table.append(pa.Table.from_pylist([row], schema=table.schema().as_arrow()))
    with pytest.raises(Exception, match=r"NoSuchTable|Forbidden"):
        catalog.drop_table("hydro.configurations")
    assert table.refresh().scan().to_arrow().num_rows == 0


def test_keys_end_within_the_hour(keys):
    left = dt.datetime.fromisoformat(keys("alice")["Expiration"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(minutes=50) < left <= dt.timedelta(hours=1)


@pytest.mark.parametrize("person", ["paula", "nobody"])
def test_without_a_lab_there_are_no_keys(keys, person):
    with pytest.raises(NotFound, match=person):
        keys(person)


@pytest.mark.parametrize("person", ["*", "a/../bob", "${aws:username}", "b?b"])
def test_a_name_is_no_wildcard_in_a_policy(person):
    assert not allows(credentials.policy(person), "s3:GetObject", "arn:aws:s3:::users/bob/x")


def test_many_programs_ask_at_once_and_who_is_nobodys_gets_none(store, tmp_path, monkeypatch):
    monkeypatch.setattr(accounts, "run_folder", lambda _: tmp_path / "run")
    with contextlib.ExitStack() as asking, credentials._Server(store) as server:
        for _ in range(40):  # before one of them is answered
            one = asking.enter_context(socket.socket(socket.AF_UNIX))
            one.settimeout(5)
            one.connect(server.server_address)
    with (
        credentials.serving(store),
        pytest.raises(SystemExit, match=f"the account of id {os.getuid()} is nobody's"),
    ):
        ask_for_keys(str(tmp_path / "run" / "credentials.sock"))
    with pytest.raises(SystemExit, match="is the hub up"):
        ask_for_keys(str(tmp_path / "run" / "credentials.sock"))


def test_a_group_that_is_gone_gives_no_keys(store, keys):
    users.add(store, "eve", ["partners"])
    path = store.data_dir / "secrets" / "users.json"
    path.write_text(path.read_text().replace('"partners"', '"of-old"'))
    with pytest.raises(NotFound, match="eve is in no group"):
        keys("eve")
