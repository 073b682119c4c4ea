"""S3, or whatever speaks it at ``S3_ENDPOINT_URL``: one client, and each way it fails told in one line."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrecipes.base.errors import MissingPathError, UserError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

# Codes that come with status 400 and still mean that the credentials are at fault.
BAD_CREDENTIALS = frozenset(
    {'AccessDenied', 'InvalidAccessKeyId', 'SignatureDoesNotMatch', 'ExpiredToken', 'InvalidToken'}
)


def s3_client() -> Any:
    """A new boto3 client; like Streaming's, it asks ``S3_ENDPOINT_URL`` where to connect to.

    Raises:
        UserError: the endpoint is not a URL.
    """
    from boto3.session import Session

    endpoint = os.environ.get('S3_ENDPOINT_URL') or None
    try:
        # A session of its own, because boto3's default one keeps the first credentials that it saw.
        return Session().client('s3', endpoint_url=endpoint)
    except ValueError as error:
        raise UserError(f'S3_ENDPOINT_URL={endpoint!r} is not a URL such as https://host:port') from error


def split_s3(url: str) -> tuple[str, str]:
    """``s3://bucket/some/key`` → ``('bucket', 'some/key')``; UserError where there is no bucket."""
    scheme, _, path = url.partition('://')
    bucket, _, key = path.partition('/')
    if scheme != 's3' or not bucket:
        raise UserError(f'not an S3 address: {url}; expected s3://bucket/key')
    return bucket, key.strip('/')


@contextmanager
def s3_errors(url: str) -> Iterator[None]:
    """Turn what boto3 raises while it works on ``url`` into one line.

    Raises:
        MissingPathError: the bucket or the key does not exist.
        UserError: no credentials, refused credentials, an endpoint that does not answer, or any other failure.
    """
    from botocore import exceptions as boto

    try:
        yield
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
        raise UserError(f'no S3 credentials for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY') from error
    except (boto.ConnectionError, boto.HTTPClientError) as error:
        endpoint = os.environ.get('S3_ENDPOINT_URL') or 'AWS (S3_ENDPOINT_URL is not set)'
        raise UserError(f'no answer from the S3 endpoint {endpoint} for {url}: {error}') from error
    except boto.ClientError as error:
        raise _told(url, error) from error
    except boto.BotoCoreError as error:
        raise UserError(f'S3 failed on {url}: {error}') from error


def _told(url: str, error: 'ClientError') -> UserError:
    code = error.response.get('Error', {}).get('Code', '')
    status = error.response.get('ResponseMetadata', {}).get('HTTPStatusCode')
    bucket, _ = split_s3(url)
    if code == 'NoSuchBucket':
        return MissingPathError(f'S3 bucket does not exist: {bucket} (in {url})')
    if code == 'NoSuchKey' or status == 404:
        return MissingPathError(f'S3 key does not exist: {url}')
    if code in BAD_CREDENTIALS or status in (401, 403):
        return UserError(f'S3 refused the credentials for {url} ({code}): check AWS_ACCESS_KEY_ID and its permissions')
    return UserError(f'S3 failed on {url}: {error}')


class S3Store:
    """The objects of S3, as :mod:`segrecipes.base.stores` asks for them."""

    def __init__(self, url: str):
        split_s3(url)

    @functools.cached_property
    def client(self) -> Any:
        return s3_client()

    def check(self, url: str) -> None:
        with s3_errors(url):
            # Not a HEAD request: its answer has no body, so a missing bucket would look like a missing key.
            self.client.get_object(**_at(url))['Body'].close()

    def names(self, url: str) -> set[str]:
        """What lies below a URL, from there."""
        bucket, prefix = split_s3(url)
        with s3_errors(url):
            pages = self.client.get_paginator('list_objects_v2').paginate(Bucket=bucket, Prefix=f'{prefix}/')
            found = {item['Key'] for page in pages for item in page.get('Contents', [])}
        return {key.removeprefix(f'{prefix}/') for key in found}

    def upload(self, file: Path, url: str) -> None:
        with s3_errors(url), file.open('rb') as body:
            self.client.put_object(**_at(url), Body=body)

    def write(self, text: str, url: str) -> None:
        with s3_errors(url):
            self.client.put_object(**_at(url), Body=text)

    def delete(self, url: str) -> None:
        with s3_errors(url):
            self.client.delete_object(**_at(url))

    def download(self, url: str, file: str) -> None:
        """Also through the ``.symlink`` files by which Composer says which checkpoint is the latest."""
        from composer.utils import get_file

        with s3_errors(url):
            get_file(url, file, progress_bar=False)


def _at(url: str) -> dict[str, str]:
    bucket, _ = split_s3(url)
    return {'Bucket': bucket, 'Key': url.partition('://')[2].partition('/')[2]}  # as it is: a slash may end it
