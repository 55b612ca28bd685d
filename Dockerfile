FROM python:3.13.12-slim
WORKDIR /app
COPY server.py subnets.py publish.py deploy/files/verify.py ./
COPY common ./common
COPY lookup ./lookup
COPY webhook ./webhook
COPY kept ./kept
COPY relocation ./relocation
RUN python -m compileall -q .
USER 65532:65532
EXPOSE 8080 8443
ENTRYPOINT ["python", "/app/server.py"]
