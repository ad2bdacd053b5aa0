# The site as an image: docker build -t seriatim .   How it is run: docs/how-to/deploy.md
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    STATE_DIR=/var/lib/seriatim

WORKDIR /srv/seriatim
# Apart from the code, which changes more often.
COPY requirements.txt ./
RUN pip install -r requirements.txt
COPY manage.py LICENSE ./
COPY config config
COPY realtime realtime
COPY chat chat
COPY dashboards dashboards
COPY templates templates
COPY static static
COPY clients/js/src clients/js/src

# The key signs nothing: it lives as long as this command.
RUN SECRET_KEY=only-while-the-image-is-built python manage.py collectstatic --no-input --verbosity 0 \
    && useradd --system --uid 10001 --home-dir /var/lib/seriatim seriatim \
    && chown -R seriatim /var/lib/seriatim
USER seriatim

EXPOSE 8000
STOPSIGNAL SIGTERM
# "localhost" must be in ALLOWED_HOSTS. Alive, not ready: a database that is away is no reason to restart anything.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://localhost:8000/healthz', timeout=2)"]
# The process itself, not a shell, so that SIGTERM and SIGHUP come to it.
ENTRYPOINT ["python", "manage.py"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
